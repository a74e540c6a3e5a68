"""The parts of `interp.sweep`: what is asked, one prompt's share of it, its store, its workers."""
