"""Users, log and states in Google Sheets, or in a local workbook."""
