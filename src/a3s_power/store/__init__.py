"""The model store on disk, in Ollama's layout: both programs can share one, in both directions.

Everything here blocks; callers put it on a thread.
"""
