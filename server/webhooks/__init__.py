"""Webhooks after the Standard Webhooks specification: signed, one attempt at a time, on a published schedule.

Who is told what, and the memory of what is still to be told, are the job engine's.
"""
