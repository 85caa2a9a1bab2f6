"""Published modules by name: same constructors, calls, results and state_dict keys, on the ops of this library.

``released`` is the authors' repository, ``cam`` the emotion-recognition repositories.
"""
