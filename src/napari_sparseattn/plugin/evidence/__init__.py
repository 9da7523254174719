"""How reliable evidence is, and what if."""
