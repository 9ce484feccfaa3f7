"""The same job done by other queues, each written the ordinary way; they run in an environment of their own and know nothing of the product."""
