{{ stage('tune', 'currency_exchange_rates', [
    ['currency', 'text', 'currency_code'],
    ['date', 'date', 'rate_on'],
    ['rate', 'decimal', 'exchange_rate'],
]) }}
