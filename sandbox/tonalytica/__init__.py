"""TONalytica: a Redash, with the manners of the vendor's sheet and the shapes of its recorded answers."""
