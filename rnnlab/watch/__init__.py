"""A run or a sweep in a browser while it trains: files that grow, read as they do, and one page that shows them.

Nothing here writes to the folder that is watched, takes a lock there, or runs code that a config names.
"""
