"""The web console, /healthz, /readyz and /metrics: all HTTP there is, in a process of its own.

An ordinary subscriber of the mask stream and an ordinary client of the control socket: when it dies, hangs or
has slow browsers, the daemon does not notice. Started by streamseg.daemon.web; needs the extra `web`.
"""
