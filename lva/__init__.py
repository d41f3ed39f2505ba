"""LVA: a video agent service whose work is done by plugins.

This is what a plugin author imports.
"""

from lva.admin import admin_only
from lva.api_bodies import request_body, response
from lva.console_page import ConsolePage
from lva.contract import (
    AnalyticsEvent,
    AnalyticsInfo,
    AnalyticsStream,
    BaseAnalyticsPlugin,
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    BaseEventPlugin,
    BaseRequestMonitoringPlugin,
    CannotRunError,
    PartialDeliveryError,
    PermanentDeliveryError,
    PluginApp,
    PluginResponse,
    RequestProblem,
    RetryLaterError,
    pluginHTTPResponse,
)
from lva.metrics import Metric
from lva.points import MonitoringPoint, add_point_fields, add_point_tags
from lva.query_parameters import query_parameter
from lva.stream_events import StreamAnalyticsEvent, StreamEvent
from lva.wrong_keys import WrongKey, WrongKeysError

__all__ = [
    "AnalyticsEvent",
    "AnalyticsInfo",
    "AnalyticsStream",
    "BaseAnalyticsPlugin",
    "BaseBackgroundHandler",
    "BaseBackgroundPlugin",
    "BaseEventPlugin",
    "BaseRequestMonitoringPlugin",
    "CannotRunError",
    "ConsolePage",
    "Metric",
    "MonitoringPoint",
    "PartialDeliveryError",
    "PermanentDeliveryError",
    "PluginApp",
    "PluginResponse",
    "RequestProblem",
    "RetryLaterError",
    "StreamAnalyticsEvent",
    "StreamEvent",
    "WrongKey",
    "WrongKeysError",
    "__version__",
    "add_point_fields",
    "add_point_tags",
    "admin_only",
    "pluginHTTPResponse",
    "query_parameter",
    "request_body",
    "response",
]

__version__ = "0.1.0"
