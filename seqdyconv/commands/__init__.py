"""What the installed command ``seqdyconv`` does: a module for each of its words."""
