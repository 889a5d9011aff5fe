"""The HTTP client that every vendor uses.

Requests, responses, bounded bodies, rate limits, retries, error mapping, download links, and recording and replay of
responses. What a response means to a vendor belongs into that vendor's folder. Read first: `client.py`, `retry.py`.
"""
