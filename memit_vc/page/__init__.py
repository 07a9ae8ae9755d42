"""What a person looks at: the report as a page, graph and curves as SVG. Plain values in, text out; no repository."""
