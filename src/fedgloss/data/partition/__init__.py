"""Which client holds which image: generators, and splits of others."""
