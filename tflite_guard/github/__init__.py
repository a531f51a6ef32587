"""GitHub: what a workflow run tells of itself, and the comment on its pull request.

Nothing here reads the environment of its own accord, and no message ever holds the token.
"""

from __future__ import annotations

from tflite_guard.github.api import GitHubError
from tflite_guard.github.comment import LONGEST_COMMENT, WORKFLOW_LOGIN, Posted, post
from tflite_guard.github.event import Context, by_hand, context

__all__ = ["LONGEST_COMMENT", "WORKFLOW_LOGIN", "Context", "GitHubError", "Posted", "by_hand", "context", "post"]
