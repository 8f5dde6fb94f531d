"""What waits to be stored: the queues of a project, their journals, and the process that uploads from them.

It may import `repository` and below; nothing here knows `Experiment`, the object that users hold.
"""
