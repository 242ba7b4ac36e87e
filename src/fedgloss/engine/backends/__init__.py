"""How mini-batch gradients are computed: one interface, several ways."""
