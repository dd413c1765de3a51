"""What the documentation site needs: its hooks, and what the page of the architecture says."""
