"""Networks: build, store, load and run them."""
