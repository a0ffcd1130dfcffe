"""What larger models will do, from smaller ones: frozen before they are trained, scored when they are."""
