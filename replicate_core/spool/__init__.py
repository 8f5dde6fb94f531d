"""What is still to be stored: the queues of a project, the journal, and the process that empties them.

It may import `repository` and below; nothing here knows the `Experiment` that people hold in their hands.
"""
