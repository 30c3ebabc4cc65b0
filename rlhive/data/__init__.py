"""The data wing: schema, episodes, recordings, versions, caches and buffers. Imports nothing by itself."""
