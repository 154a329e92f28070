"""What Elasticsearch's mappings and queries override."""
