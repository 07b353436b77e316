"""Where saliency comes from."""
