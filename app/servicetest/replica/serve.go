package replica

import (
	"encoding/json"
	"net/rpc"
	"os"
)

// Serve does nothing in the process of the test. In a replica it builds the service, answers the test's calls, and does
// not return: the replica ends with its standard input. The service's methods have the form that net/rpc prescribes.
//
// It is for TestMain, before the tests run, and after what is to hold in replicas too.
func Serve[S any](build func(settings S, seen *Telemetry) (service any)) {
	encoded, isReplica := os.LookupEnv(variable)
	if !isReplica {
		return
	}
	answers := os.Stdout
	os.Stdout = os.Stderr // what the service prints must not get between its answers
	var settings S
	if err := json.Unmarshal([]byte(encoded), &settings); err != nil {
		panic(err)
	}
	seen := newTelemetry()
	server := rpc.NewServer()
	if err := server.RegisterName("Service", build(settings, seen)); err != nil {
		panic(err)
	}
	if err := server.RegisterName("Telemetry", seen); err != nil {
		panic(err)
	}
	server.ServeConn(pipes{os.Stdin, answers})
	os.Exit(0)
}
