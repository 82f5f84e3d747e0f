if not composition() then
  return answer('unknown_composition')
end
announce_composition('composition_deleted')
return answer('ok')
