"""What plugins say of their routes and pages: who may call them, what they take and respond, what was wrong.

A plugin imports these names from `lva`; the host's routing and `lva.web` read what they have marked.
"""
