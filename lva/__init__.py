"""LVA: a video agent service whose work is done by plugins.

This is what a plugin author imports.
"""

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
from lva.events.points import MonitoringPoint, add_point_fields, add_point_tags
from lva.events.streams import StreamAnalyticsEvent, StreamEvent
from lva.metrics import Metric
from lva.routes.admin import admin_only
from lva.routes.bodies import request_body, response
from lva.routes.pages import ConsolePage
from lva.routes.query import query_parameter
from lva.routes.wrong_keys import WrongKey, WrongKeysError

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
