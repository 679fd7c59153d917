"""What was published: models, their training recipes, and backbones."""
