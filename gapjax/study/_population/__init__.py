"""Populations: the members of a regime (seeds and hyperparameters), trained as one program.

``_setup`` is what the regimes of a study share, ``_member`` the update and the start of one member,
``_train`` the training of all, ``_evaluate`` and ``_noise`` what is measured on the way, ``_keep``
and ``_levels`` what is kept of it.
"""
