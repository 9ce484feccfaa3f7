"""Evidence: what became of every event, in records that nobody can change unseen; hash chains, day roots, their SQL archive, proofs and verification."""
