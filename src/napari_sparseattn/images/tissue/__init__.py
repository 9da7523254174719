"""Where the tissue of a slide is."""
