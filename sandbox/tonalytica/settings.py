"""What /api/session tells the web app about its server."""

from __future__ import annotations

from typing import Any

QUERY_INTERVALS = [60, 300, 600, 900, 1800, *(3600 * n for n in range(1, 13)), 86400, 604800, 1209600, 2592000]


def client_config(version: str, base_path: str) -> dict[str, Any]:
    return {
        "newVersionAvailable": False,
        "version": version,
        "showBeaconConsentMessage": True,
        "allowScriptsInUserInput": False,
        "showPermissionsControl": False,
        "hidePlotlyModeBar": False,
        "disablePublicUrls": False,
        "multiByteSearchEnabled": False,
        "allowCustomJSVisualizations": True,
        "autoPublishNamedQueries": True,
        "extendedAlertOptions": False,
        "mailSettingsMissing": True,
        "dashboardRefreshIntervals": [60, 300, 600, 1800, 3600, 43200, 86400],
        "queryRefreshIntervals": QUERY_INTERVALS,
        "googleLoginEnabled": False,
        "ldapLoginEnabled": False,
        "pageSize": 20,
        "pageSizeOptions": [5, 10, 20, 50, 100],
        "tableCellMaxJSONSize": 50000,
        "basePath": base_path,
        "dateFormat": "DD/MM/YY",
        "dateFormatList": ["DD/MM/YY", "MM/DD/YY", "YYYY-MM-DD"],
        "timeFormatList": ["HH:mm:ss.SSS", "HH:mm", "HH:mm:ss"],
        "dateTimeFormat": "DD/MM/YY HH:mm",
        "integerFormat": "0,0",
        "floatFormat": "0,0.00",
        "thousandsSeparator": ",",
        "decimalSeparator": ".",
        "nullValue": "null",
    }
