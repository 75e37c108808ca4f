// Workspace: read only where the same item wrote before.
#include "compiler/program/verifier_checks.hpp"

namespace convt::program::verifier {

Status check_workspace(const Program& program, StageProof& proof) {
  if (proof.facts.workspace_loads.empty()) return ok_status();
  return defect(program, proof.stage, proof.facts.workspace_loads.front().at,
                "reads of workspace cannot be proved yet");
}

}  // namespace convt::program::verifier
