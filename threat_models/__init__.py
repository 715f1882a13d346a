"""Attacks against secure_frl, one adversary a file; each sees only what that adversary would see."""
