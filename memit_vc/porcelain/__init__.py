"""One typed function per verb; no printing, no option parsing. Heavy imports happen inside the functions."""
