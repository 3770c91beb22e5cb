"""Raw videos in, records out: decode -> detect -> track -> annotate -> write. Runs once; may use torch."""
