"""A web page that shows what the coordinator does: read-only, live, without anything from elsewhere."""
