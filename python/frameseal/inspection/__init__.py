"""Recognises sealed frames without a key. No module on the path of a frame imports it."""
