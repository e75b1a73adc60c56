"""From masks to answers: zones are rasterised and counted, and what is counted is handed on."""
