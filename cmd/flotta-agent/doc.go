// Command flotta-agent makes a Linux host a managed edge device.
//
// Started by yggd, with YGG_SOCKET_ADDR in its environment, it is the worker of
// the directive "device"; "flotta-agent run" is the same without yggd. All logic is in internal/agent.
package main
