"""Watching pictures go by: files, folders that are being filled, cameras, streams.

from qinsight_plugin.watch.watching import watch

for sample in watch("rtsp://camera/1", gate=Gate(min_score=3)):
    ...
"""
