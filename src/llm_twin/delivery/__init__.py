"""From a commit to a running service: the image, the registries, the places it is deployed to."""
