"""The sweep: how large a batch may be, from the updates that it takes to a target at many sizes.

``_sweep`` is what is asked, ``_goal`` when it is reached, ``_run`` what is done, ``_records`` what
is kept, ``_findings`` what it says; ``_words``, ``_figures`` and ``_page`` are the report.
"""
