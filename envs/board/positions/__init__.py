"""Positions of board games as plain data, which the page and `picture.py` draw."""
