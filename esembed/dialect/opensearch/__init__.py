"""What OpenSearch's mappings and queries override."""
