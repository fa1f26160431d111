// Command flotta-edge-api is the server that devices talk to.
//
// Without a subcommand it serves. It is configured by environment variables:
//
//	HTTPS_PORT                  where devices connect (8043)
//	DOMAIN                      the name that devices call the server (project-flotta.io)
//	TLS_LOCALHOST_ENABLED       the certificate is good for localhost too (true)
//	TLS_IPS                     further addresses of the certificate, comma-separated
//	METRICS_ADDR                /metrics, /healthz, /readyz (127.0.0.1:8080); 0: nowhere
//	PROBE_ADDR                  /healthz, /readyz a second time (nowhere)
//	LOG_LEVEL                   debug, info, warn, error (info)
//	CLIENT_CERT_EXPIRATION_DAYS life of device certificates (30)
//	MAX_BODY_BYTES              bound of a request (1048576)
//	ALLOWED_NAMESPACES          what devices may ask for, comma-separated (default)
//	BACKEND                     crd, remote or file (crd)
//	KUBECONFIG                  how the cluster is reached (as a pod of it)
//	REMOTE_BACKEND_URL          the service of the remote backend
//	REMOTE_BACKEND_TIMEOUT      how long one of its answers may take (5s)
//	FILE_BACKEND_DIR            folder of the file backend (/var/lib/flotta-edge-api);
//	                            with the remote backend: where certificates are kept
//	                            when there is no cluster
//	AUTO_APPROVAL_PROCESS       file backend: let every device in that asks (false)
package main
