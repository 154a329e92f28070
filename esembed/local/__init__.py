"""Elasticsearch and OpenSearch servers on this machine."""
