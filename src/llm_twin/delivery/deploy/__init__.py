"""From a pushed image to a service that answers, with a way back.

A target says which steps a deployment takes; ``deployments`` runs them, each journalled before it
is done, so that whatever is cut short can be finished or undone later.
"""
