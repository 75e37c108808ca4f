// The verifier's proofs about numbers, stage by stage and over all stages. Internal to the
// verifier.
#pragma once

#include <deque>

#include <convt/result.hpp>

#include "compiler/program/verifier_facts.hpp"
#include "compiler/program/verifier_space.hpp"

namespace convt::program::verifier {

/// What is known of one stage. `spaces` refers to `facts`: it stays where it is made.
struct StageProof {
  StageProof(const Program& program, const Stage& of, StageFacts known)
      : stage(of), facts(std::move(known)), spaces(program, of, facts) {}
  StageProof(const StageProof&) = delete;
  StageProof& operator=(const StageProof&) = delete;

  const Stage& stage;
  const StageFacts facts;
  Spaces spaces;
};

/// An index on the batch axis, block * batch_block + local.
struct BatchIndex {
  ScalarId block = kNone;  ///< kNone: it does not depend on the block
  Affine local;
};
BatchIndex split_batch_index(const Affine& index, const StageFacts& facts);

/// Every look-up inside its table, every access inside its buffer.
Status check_bounds(const Program& program, StageProof& proof);

/// Workspace is read only where the item wrote before.
Status check_workspace(const Program& program, StageProof& proof);

/// Every element of the output, and of each staged tensor, is stored exactly once by all items of
/// all stages together; staged tensors are read by later stages only.
Status check_coverage(const Program& program, std::deque<StageProof>& proofs);

}  // namespace convt::program::verifier
