"""LVA: a video agent service whose work is done by plugins.

This is what a plugin author imports.
"""

from lva.admin import admin_only
from lva.contract import (
    AnalyticsEvent,
    AnalyticsInfo,
    AnalyticsStream,
    BaseAnalyticsPlugin,
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    BaseEventPlugin,
    BaseRequestMonitoringPlugin,
    PartialDeliveryError,
    PermanentDeliveryError,
    PluginApp,
    PluginResponse,
    RetryLaterError,
    pluginHTTPResponse,
)
from lva.points import MonitoringPoint, add_point_fields, add_point_tags
from lva.query_parameters import query_parameter
from lva.stream_events import StreamAnalyticsEvent, StreamEvent

__all__ = [
    "AnalyticsEvent",
    "AnalyticsInfo",
    "AnalyticsStream",
    "BaseAnalyticsPlugin",
    "BaseBackgroundHandler",
    "BaseBackgroundPlugin",
    "BaseEventPlugin",
    "BaseRequestMonitoringPlugin",
    "MonitoringPoint",
    "PartialDeliveryError",
    "PermanentDeliveryError",
    "PluginApp",
    "PluginResponse",
    "RetryLaterError",
    "StreamAnalyticsEvent",
    "StreamEvent",
    "__version__",
    "add_point_fields",
    "add_point_tags",
    "admin_only",
    "pluginHTTPResponse",
    "query_parameter",
]

__version__ = "0.1.0"
