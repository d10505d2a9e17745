"""Self-supervised methods: pure losses of two views, and what each method trains beside the backbone."""
