"""Where keys come from, how they change, and how people compare them."""
