import pytest

pytest.register_assert_rewrite("tests.process.scene")
